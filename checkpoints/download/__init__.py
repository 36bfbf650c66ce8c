"""Fetching a file over HTTP, resumable and verified."""
