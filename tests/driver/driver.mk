# make test-driver [KERNEL=6.1|6.12|newest|all] [TEST=part of a name]: som.ko in virtual machines.
# Without KERNEL everything runs on 6.12, and on the others what differs between kernels.
DRIVER_PACKAGES := qemu-system-x86 busybox-static cpio xz-utils debian-archive-keyring gcc libc6-dev

.PHONY: test-driver driver-tools kernels-tried
test-driver: setup driver-tools ## som.ko in virtual machines [KERNEL=6.1|6.12|newest|all] [TEST=part of a name]
	$(BIN)/pytest tests/driver -k "$(if $(filter-out all,$(KERNEL)),[$(KERNEL)/,/) and $(or $(TEST),/)" \
		$(if $(KERNEL),,-m "not full")

kernels-tried: setup ## docs/reference/kernels.md, from the whole runs on this machine that passed
	PYTHONPATH=tests $(BIN)/python -m guests.tried
	$(BIN)/python docs/generate.py --write

driver-tools:
	@tests/install-packages $(DRIVER_PACKAGES)
