# Without a provider: it reads files of this repository and puts text together. templatestring is of 1.9.
terraform {
  required_version = ">= 1.9.0"
}
