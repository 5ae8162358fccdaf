output "userdata" {
  description = "The script, for an EC2NodeClass or a launch template that is a script."
  value       = local.userdata
}

output "launch_template_userdata" {
  description = "The script in the MIME form that EKS managed node groups want; for aws_launch_template in base64."
  value       = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"//\"\n\n--//\nContent-Type: text/x-shellscript; charset=\"us-ascii\"\n\n${local.userdata}\n--//--\n"
}

output "node_class" {
  description = "The EC2NodeClass, as an object; `yamlencode` or a kubernetes_manifest takes it."
  value       = local.node_class
}

output "node_pool" {
  description = "The NodePool, as an object."
  value       = local.node_pool
}
