"""A network used without training: predictions, embeddings, exports, verification."""
