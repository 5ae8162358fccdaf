variable "bucket" {
  description = "Where the binaries go; it exists, and the nodes reach it (an S3 gateway endpoint is enough)."
  type        = string
}

variable "files" {
  description = "The binary for each architecture, on this machine: x86_64, aarch64 (`cargo lab dist --all`)."
  type        = map(string)
}

variable "release" {
  description = "Part of the key, so that a new version is a new object, and the old one stays for nodes that are starting."
  type        = string
}

variable "region" {
  description = "Of the bucket."
  type        = string
}

variable "kms_key_arn" {
  description = "By which the bucket encrypts, where that is a key of your own."
  type        = string
  default     = ""
}

variable "node_role" {
  description = "Name of the nodes' IAM role: it is given s3:GetObject of these objects and nothing else."
  type        = string
}

variable "cluster" {
  description = "Name of the cluster."
  type        = string
}

variable "name" {
  description = "Of the EC2NodeClass and the NodePool."
  type        = string
  default     = "local-nvme"
}

variable "options" {
  description = "More of the variables of ../core: on_failure, profile, families, zones and so on."
  type = object({
    on_failure     = optional(string, "taint")
    profile        = optional(string, "")
    workspace      = optional(string, "")
    families       = optional(list(string), [])
    zones          = optional(list(string), [])
    capacity_types = optional(list(string), [])
    cpu_limit      = optional(number, 256)
    expire_after   = optional(string, "168h")
    tags           = optional(map(string), {})
  })
  default = {}
}
