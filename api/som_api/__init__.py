"""The types of som's API and the runtime that speaks with the API server."""
