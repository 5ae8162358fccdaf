output "userdata" {
  description = "The script that nodes run."
  value       = module.core.userdata
}

output "launch_template_userdata" {
  description = "The same for a managed node group's launch template, in base64."
  value       = base64encode(module.core.launch_template_userdata)
}
