"""What keeps an evaluation from an honest number."""


class EvaluationError(RuntimeError):
    """An evaluation that cannot give an honest number; the message says why."""
