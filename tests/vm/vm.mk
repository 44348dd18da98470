# make test-vm [TEST=part of a name]: the agent in a virtual machine with two NUMA nodes, alone and
# as a node of the test cluster.
VM_PACKAGES := qemu-system-common e2fsprogs

.PHONY: test-vm
test-vm: setup driver-tools cluster-build ## the agent in a virtual machine, alone and as a node [TEST=part of a name]
	@tests/install-packages $(VM_PACKAGES)
	$(BIN)/pytest tests/vm $(if $(TEST),-k "$(TEST)") $(if $(KERNEL),,-m "not full")
