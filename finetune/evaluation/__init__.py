"""The one way to score a model, what the scores amount to, and when two of them differ by more than noise."""
