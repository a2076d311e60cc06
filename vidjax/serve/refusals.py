"""What is answered in place of a result: a status and one sentence."""


class Refusal(Exception):
    """A request that cannot be met: the HTTP status, the sentence, and seconds after which to try again (0: never)."""

    def __init__(self, status, sentence, after=0):
        super().__init__(sentence)
        self.status, self.sentence, self.after = status, sentence, after


GONE = 499  # nobody is there to read it
