"""What other servers load: safekv put together for processes that safekv does not start itself."""
