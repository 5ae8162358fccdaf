# An AMI with nvme-agent, for x86_64 and arm64, made from the AL2023 image of EKS. See README.md.
#
#   packer init ami && packer build -var kubernetes_version=1.34 -var packages=target/dist ami

packer {
  required_version = ">= 1.9.0"
  required_plugins {
    amazon = {
      version = ">= 1.3.0, < 2.0.0"
      source  = "github.com/hashicorp/amazon"
    }
  }
}

variable "kubernetes_version" {
  type        = string
  description = "Of the EKS image to build on, such as 1.34"
  validation {
    condition     = can(regex("^1\\.[0-9]{2}$", var.kubernetes_version))
    error_message = "The kubernetes_version is of the form 1.34."
  }
}

variable "packages" {
  type        = string
  description = "Directory with both rpms, such as target/dist"
}

variable "version" {
  type        = string
  description = "Of nvme-agent, as in the names of the rpms"
  default     = "0.1.0"
}

variable "config" {
  type        = string
  description = "File that becomes /etc/nvme-agent/config.toml; as packaged, all lines commented out, unless given"
  default     = "packaging/config.toml"
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "subnet_id" {
  type        = string
  description = "Of the build instances; the default VPC's where it is empty"
  default     = ""
}

variable "kms_key_id" {
  type        = string
  description = "For the image's snapshot; the account's EBS key where it is empty"
  default     = ""
}

locals {
  stamp = formatdate("YYYYMMDDhhmm", timestamp())
  # Without instance store: no setup runs on the machine that becomes the image, and there is nothing of it to clean away.
  instance_types = {
    x86_64 = "m7i.large"
    arm64  = "m7g.large"
  }
}

source "amazon-ebs" "eks" {
  region        = var.region
  subnet_id     = var.subnet_id
  ssh_username  = "ec2-user"
  ssh_interface = "session_manager"
  # Of the build only: Session Manager needs it in place of an open port.
  temporary_iam_instance_profile_policy_document {
    Version = "2012-10-17"
    Statement {
      Effect   = "Allow"
      Action   = ["ssm:UpdateInstanceInformation", "ssmmessages:*", "ec2messages:*"]
      Resource = ["*"]
    }
  }
  encrypt_boot = true
  kms_key_id   = var.kms_key_id
  imds_support = "v2.0"
  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
  }
}

build {
  name = "nvme-agent"

  source "amazon-ebs.eks" {
    name          = "x86_64"
    ami_name      = "nvme-agent-${var.version}-eks-${var.kubernetes_version}-x86_64-${local.stamp}"
    instance_type = local.instance_types["x86_64"]
    source_ami_filter {
      filters = {
        name                = "amazon-eks-node-al2023-x86_64-standard-${var.kubernetes_version}-*"
        virtualization-type = "hvm"
      }
      owners      = ["602401143452"]
      most_recent = true
    }
  }

  source "amazon-ebs.eks" {
    name          = "arm64"
    ami_name      = "nvme-agent-${var.version}-eks-${var.kubernetes_version}-arm64-${local.stamp}"
    instance_type = local.instance_types["arm64"]
    source_ami_filter {
      filters = {
        name                = "amazon-eks-node-al2023-arm64-standard-${var.kubernetes_version}-*"
        virtualization-type = "hvm"
      }
      owners      = ["602401143452"]
      most_recent = true
    }
  }

  provisioner "file" {
    source      = "${var.packages}/nvme-agent-${var.version}-1.${source.name == "arm64" ? "aarch64" : "x86_64"}.rpm"
    destination = "/var/tmp/nvme-agent.rpm"
  }

  provisioner "file" {
    source      = var.config
    destination = "/var/tmp/nvme-agent.toml"
  }

  # rpm and not dnf: it asks no mirror.
  provisioner "shell" {
    inline_shebang = "/bin/bash -eu"
    inline = [
      "sudo rpm --install /var/tmp/nvme-agent.rpm",
      "sudo install -m 0644 /var/tmp/nvme-agent.toml /etc/nvme-agent/config.toml",
      "nvme-agent --version",
      "sudo nvme-agent install",
      "for unit in nvme-agent.service nvme-agent-report.service nvme-agent-report.timer nvme-agent-metrics.service nvme-agent-metrics.timer; do systemctl is-enabled $unit; done",
      "rm /var/tmp/nvme-agent.rpm /var/tmp/nvme-agent.toml",
    ]
  }

  # Last: takes out what this machine has left, and what makes two instances of the image the same machine.
  provisioner "shell" {
    script          = "${path.root}/clean.sh"
    execute_command = "chmod +x {{ .Path }}; sudo {{ .Path }} --identity"
  }

  post-processor "manifest" {
    output = "ami-manifest.json"
  }
}
