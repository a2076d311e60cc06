"""What keeps an evaluation from an honest number, or from its end."""


class EvaluationError(RuntimeError):
    """An evaluation that cannot give an honest number; the message says why."""


class Stopped(RuntimeError):
    """A signal ended an evaluation between two batches; the message says what is kept."""
