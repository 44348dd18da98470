# make test-vm [TEST=part of a name]: the agent in a virtual machine with two NUMA nodes.
.PHONY: test-vm
test-vm: setup driver-tools ## the agent in a virtual machine with two NUMA nodes [TEST=part of a name]
	$(BIN)/pytest tests/vm $(if $(TEST),-k "$(TEST)")
