"""python3 -m ec2ssh_agent"""

import gc

gc.disable()  # of what is imported nothing can be collected

from .cli import process  # noqa: E402

process()
