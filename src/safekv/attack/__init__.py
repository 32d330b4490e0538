"""What an attacker does; sees only an endpoint, never our keys or caches."""
