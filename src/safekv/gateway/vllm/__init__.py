"""The front of a vLLM server: who calls, which routes are open, what a client may say."""
