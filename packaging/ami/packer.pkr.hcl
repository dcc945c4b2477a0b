# An AMI with ec2ssh-agent in it, from Debian 12. In the tree: packer build packaging/ami/packer.pkr.hcl
# The agent is enabled, not started, while the image is built; it wakes with the image's instances.

variable "region" {
  type    = string
  default = "us-east-1"
}

locals {
  tree = "${path.root}/../.."
}

source "amazon-ebs" "debian" {
  region        = var.region
  instance_type = "t3.micro"
  ssh_username  = "admin"
  ami_name      = "debian-12-ec2ssh-agent-${formatdate("YYYYMMDDhhmmss", timestamp())}"

  source_ami_filter {
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-amd64-*"
      architecture        = "x86_64"
      virtualization-type = "hvm"
    }
  }
}

build {
  sources = ["source.amazon-ebs.debian"]

  provisioner "shell" {
    inline = ["mkdir -p /tmp/ec2ssh-agent"]
  }

  provisioner "file" {
    sources     = ["${local.tree}/agent", "${local.tree}/packaging", "${local.tree}/systemd", "${local.tree}/CHANGELOG.md"]
    destination = "/tmp/ec2ssh-agent/"
  }

  provisioner "shell" {
    inline = [
      "sudo /tmp/ec2ssh-agent/packaging/install.sh --image",
      "sudo ec2ssh-agent prepare-image",
      "rm -rf /tmp/ec2ssh-agent",
    ]
  }
}
