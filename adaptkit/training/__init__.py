"""Training of base models and adapters, and enrolment of new speakers."""
