# make libsom: libsom.so and som-run in build/libsom.
.PHONY: libsom
libsom: ## libsom.so and som-run in build/libsom: a program's heap in som memory
	@command -v cargo >/dev/null || tests/install-packages cargo
	@command -v patch >/dev/null || tests/install-packages patch
	@$(MAKE) --no-print-directory -C libsom OUT=$(CURDIR)/build/libsom
