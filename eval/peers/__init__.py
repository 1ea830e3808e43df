"""Other methods, written from their papers."""
