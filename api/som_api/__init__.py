"""The types of som's API, the runtime that speaks with the API server, logs and endpoint."""
