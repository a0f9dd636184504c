"""What all tests share: tests marked `gre` run where the kernel can make GRE devices, here or in a VM."""

pytest_plugins = ["tests.support.vm_plugin"]
