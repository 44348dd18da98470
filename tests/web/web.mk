# make test-web [TEST=part_of_a_name]: the page in a real Chromium, on a fleet that is a fake.
.PHONY: test-web web-tools
test-web: setup web-tools ## the page in a real browser, and the API against what its schema allows
	$(BIN)/pytest tests/web $(if $(TEST),-k "$(TEST)")

web-tools:
	@tests/install-packages chromium fonts-inter
