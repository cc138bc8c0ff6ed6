"""Published grading protocols, known issues included."""
