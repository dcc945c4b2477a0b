"""python3 -m ec2ssh_agent"""

import sys

from .cli import main

sys.exit(main())
