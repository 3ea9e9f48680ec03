"""The doors that others knock at: HTTP and WebSocket. All they know is the studio."""
