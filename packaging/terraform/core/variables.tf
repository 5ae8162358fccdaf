variable "binaries" {
  description = "Where the binary is, and its SHA-256, for each architecture that nodes may have: x86_64, aarch64."
  type = map(object({
    url    = string
    sha256 = string
  }))
  validation {
    condition     = length(var.binaries) > 0 && alltrue([for arch in keys(var.binaries) : contains(["x86_64", "aarch64"], arch)])
    error_message = "binaries: expected x86_64, aarch64 or both."
  }
  validation {
    # What cannot end a word of a root shell.
    condition = alltrue([
      for binary in values(var.binaries) :
      can(regex("^(https?|s3)://[A-Za-z0-9][A-Za-z0-9._/:@=+,-]*$", binary.url)) && length(binary.url) <= 1024
    ])
    error_message = "binaries: a url begins with https://, http:// or s3://, and has letters, digits and . _ / : @ = + , - only."
  }
  validation {
    condition     = alltrue([for binary in values(var.binaries) : can(regex("^[0-9a-f]{64}$", binary.sha256))])
    error_message = "binaries: a sha256 has 64 lower-case hexadecimal digits."
  }
}

variable "region" {
  description = "Of the bucket, for s3://; the AWS CLI's own where it is empty."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^([a-z]{2}(-[a-z]+)+-[0-9])?$", var.region))
    error_message = "region: expected one such as eu-west-1."
  }
}

variable "on_failure" {
  description = "What becomes of a node whose setup failed: label, taint or no-join."
  type        = string
  default     = "taint"
  validation {
    condition     = contains(["label", "taint", "no-join"], var.on_failure)
    error_message = "on_failure: expected label, taint or no-join."
  }
}

variable "profile" {
  description = "The label that pods and the NodePool meant for them agree on; none where it is empty."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$", var.profile))
    error_message = "profile: expected a label's value."
  }
}

variable "target" {
  description = "Where the filesystem is mounted."
  type        = string
  default     = "/tmp"
  validation {
    condition     = can(regex("^(/[A-Za-z0-9_.-]+)+$", var.target))
    error_message = "target: expected an absolute path of letters, digits and _ . -"
  }
}

variable "expect_drives" {
  description = "A node with fewer drives has failed; 0: none are required."
  type        = number
  default     = 0
  validation {
    condition     = var.expect_drives >= 0 && var.expect_drives <= 64 && floor(var.expect_drives) == var.expect_drives
    error_message = "expect_drives: expected 0 to 64."
  }
}

variable "directories" {
  description = "Directories that are made on the mount for pods, with owner and group (numbers or names) and mode (octal)."
  type = list(object({
    path  = string
    owner = optional(string, "0")
    group = optional(string, "0")
    mode  = optional(string, "0755")
  }))
  default = []
  validation {
    condition = alltrue([
      for directory in var.directories :
      can(regex("^[A-Za-z0-9_-][A-Za-z0-9_./-]*$", directory.path)) && !strcontains(directory.path, "..") &&
      alltrue([for who in [directory.owner, directory.group] : can(regex("^[a-z0-9_][a-z0-9_-]*$", who))]) &&
      can(regex("^[0-7]{3,4}$", directory.mode))
    ])
    error_message = "directories: expected relative paths, users and groups, and octal modes."
  }
}

variable "deadline" {
  description = "Seconds that all of it may take on a node, 60 to 780: Karpenter waits 15 minutes for one, boot included."
  type        = number
  default     = 600
  validation {
    condition     = var.deadline >= 60 && var.deadline <= 780 && floor(var.deadline) == var.deadline
    error_message = "deadline: expected 60 to 780."
  }
}

variable "name" {
  description = "Of the EC2NodeClass and the NodePool."
  type        = string
  default     = "local-nvme"
  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.name))
    error_message = "name: expected lower-case letters, digits and -"
  }
}

variable "cluster" {
  description = "Whose subnets and security groups: those tagged karpenter.sh/discovery."
  type        = string
  default     = "CLUSTER"
}

variable "role" {
  description = "Name of the nodes' IAM role."
  type        = string
  default     = "ROLE"
}

variable "ami_alias" {
  description = "The image: al2023@latest, or pinned, al2023@vYYYYMMDD."
  type        = string
  default     = "al2023@latest"
  validation {
    condition     = can(regex("^al2023@(latest|v[0-9]{8})$", var.ami_alias))
    error_message = "ami_alias: expected al2023@latest or al2023@vYYYYMMDD; Bottlerocket, Windows and Auto Mode run no userData script."
  }
}

variable "volume_size" {
  description = "Of the root volume, gp3, in GiB."
  type        = number
  default     = 100
}

variable "tags" {
  description = "Of everything that Karpenter launches."
  type        = map(string)
  default     = {}
}

variable "workspace" {
  description = "e6data's: labels app and e6data-workspace-name, and the taint of that name; none where it is empty."
  type        = string
  default     = ""
}

variable "families" {
  description = "Instance families; every one with instance store where it is empty."
  type        = list(string)
  default     = []
}

variable "zones" {
  description = "Availability zones; wherever there are subnets where it is empty."
  type        = list(string)
  default     = []
}

variable "capacity_types" {
  description = "on-demand, spot; Karpenter's default, on-demand, where it is empty."
  type        = list(string)
  default     = []
}

variable "cpu_limit" {
  description = "CPUs of all nodes of the NodePool together."
  type        = number
  default     = 256
}

variable "expire_after" {
  description = "After which a node is replaced, such as 168h."
  type        = string
  default     = "168h"
  validation {
    condition     = can(regex("^[1-9][0-9]*h$", var.expire_after))
    error_message = "expire_after: expected hours, such as 168h; Never would leave a node with a failed drive for ever."
  }
}
