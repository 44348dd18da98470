# make test-driver [KERNEL=6.1|6.12|newest|all] [TEST=part of a name]: som.ko in virtual machines.
# Without KERNEL everything runs on 6.12, and on the others what differs between kernels.
# make test-driver-debug [TEST=part of a name]: the same tests on a kernel with its own checks.
DRIVER_PACKAGES := qemu-system-x86 busybox-static cpio xz-utils debian-archive-keyring gcc libc6-dev

.PHONY: test-driver test-driver-debug driver-tools kernels-tried
test-driver: setup driver-tools ## som.ko in virtual machines [KERNEL=6.1|6.12|newest|all] [TEST=part of a name]
	$(BIN)/pytest tests/driver -k "$(if $(filter-out all,$(KERNEL)),[$(KERNEL)/,/) and $(or $(TEST),/)" \
		-m "not $(if $(KERNEL),debug,full)"

test-driver-debug: setup driver-tools ## som.ko on a kernel with KASAN, lockdep and more, built once [TEST=part of a name]
	$(BIN)/pytest tests/driver -k "$(or $(TEST),/)" -m debug

kernels-tried: setup ## docs/reference/kernels.md, from the whole runs on this machine that passed
	PYTHONPATH=tests $(BIN)/python -m guests.tried
	$(BIN)/python docs/generate.py --write

driver-tools:
	@tests/install-packages $(DRIVER_PACKAGES)
