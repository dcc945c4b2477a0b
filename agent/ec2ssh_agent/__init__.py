"""ec2ssh-agent: keeps SSH reachable on a Linux instance, and says who can reach it."""

__version__ = "0.1.0"
