"""What a project that builds on rushes needs for its own tests; shipped because rushes' tests stand on the same."""
