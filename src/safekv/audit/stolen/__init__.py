"""What a stolen cache gives away: every attack against every protection, measured."""
