# terraform test, without a provider.

variables {
  binaries = {
    x86_64 = {
      url    = "https://artifacts.example.com/nvme-agent/0.1.0/nvme-agent-x86_64"
      sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    }
  }
}

run "one_architecture_over_https" {
  command = plan
  assert {
    condition     = startswith(output.userdata, "#!/bin/bash\n# nvme-agent ") && endswith(output.userdata, "\nexit 0\n")
    error_message = output.userdata
  }
  assert {
    condition     = length(regexall("@[A-Z_0-9]+@|##|[$%][{]|aws s3|aarch64\\)", output.userdata)) == 0
    error_message = "a part is left that is not wanted"
  }
  assert {
    condition     = length(output.userdata) < 8192
    error_message = "EC2 takes 16384 with what Karpenter adds"
  }
  assert {
    condition     = output.node_pool.spec.template.spec.expireAfter == "168h" && output.node_class.spec.userData == output.userdata
    error_message = "the objects"
  }
}

run "graviton_from_a_bucket" {
  command = plan
  variables {
    binaries = {
      aarch64 = {
        url    = "s3://bucket/nvme-agent-aarch64"
        sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
      }
    }
    region     = "eu-west-1"
    on_failure = "no-join"
  }
  assert {
    condition     = strcontains(output.userdata, " --region eu-west-1 ") && !strcontains(output.userdata, "curl") && !strcontains(output.userdata, "taint()")
    error_message = output.userdata
  }
  assert {
    condition     = contains([for r in output.node_pool.spec.template.spec.requirements : join(",", r.values) if r.key == "kubernetes.io/arch"], "arm64")
    error_message = "the NodePool asks for another architecture than there is a binary for"
  }
}

run "no_quote_reaches_a_root_shell" {
  command = plan
  variables {
    binaries = {
      x86_64 = {
        url    = "https://example.com/a';reboot;'"
        sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
      }
    }
  }
  expect_failures = [var.binaries]
}

run "no_line_feed_reaches_it_either" {
  command = plan
  variables {
    profile = "a\nreboot"
    target  = "/tmp\nreboot"
    region  = "eu-west-1\n"
  }
  expect_failures = [var.profile, var.target, var.region]
}

run "bad_directories" {
  command = plan
  variables {
    directories = [{ path = "../etc" }]
  }
  expect_failures = [var.directories]
}

run "other_images" {
  command = plan
  variables {
    ami_alias = "bottlerocket@latest"
  }
  expect_failures = [var.ami_alias]
}

run "for_ever" {
  command = plan
  variables {
    expire_after = "Never"
    on_failure   = "ignore"
    deadline     = 1000
  }
  expect_failures = [var.expire_after, var.on_failure, var.deadline]
}
