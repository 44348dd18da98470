# A real cluster on this machine, in namespaces of its own (root, Debian 12).
HARNESS := PYTHONPATH=tests $(BIN)/python -m cluster.harness

.PHONY: cluster-build cluster-up cluster-down cluster-shell test-cluster
cluster-build: setup ## builds what the cache lacks
	$(HARNESS) build

cluster-up: setup ## starts the cluster and waits for its node
	$(HARNESS) up

cluster-down: setup ## ends it
	$(HARNESS) down

cluster-shell: setup ## a shell inside, KUBECONFIG set
	$(HARNESS) shell

test-cluster: cluster-build ## types, policies, chart, operator; then pods through all that happens to a node
	$(BIN)/pytest tests/cluster --ignore=tests/cluster/scenes $(if $(KERNEL),,-m "not full")
	$(BIN)/pytest tests/cluster/scenes
