"""What stores say to each other."""
