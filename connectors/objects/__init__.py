"""What any object store needs: patterns over keys, bytes to text, and documents to what a model can read."""
