"""Images looked at before anything is trained on them: measured, compared with each other, left out."""
