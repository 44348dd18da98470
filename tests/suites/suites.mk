# make test-suites [TEST=part of a name] [LTP=where LTP was built]: test suites that others wrote,
# under libsom and without it, and the examples of explicit use. Without TEST it takes about half an
# hour.
.PHONY: test-suites
test-suites: setup libsom ## tests that others wrote, with and without libsom [TEST=part of a name]
	@tests/install-packages dpkg-dev
	$(BIN)/pytest tests/suites $(if $(TEST),-k "$(TEST)")
