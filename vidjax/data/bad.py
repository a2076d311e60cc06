"""The list of videos that a run could not read."""

import csv
import os


class TooManyBadVideos(ValueError):
    """More videos failed than the configured share."""


class BadVideos:
    """Keeps a source's unreadable videos in a CSV file `id,error`, which a resumed run continues."""

    def __init__(self, path, source):
        self.path, self.source, self.errors = path, source, {}
        if os.path.exists(path):
            with open(path, newline="", encoding="utf-8") as file:
                listed = {row["id"]: row["error"] for row in csv.DictReader(file) if row.get("error")}
            ids = {source[i]["id"] for i in range(len(source))}
            self.errors = {name: error for name, error in listed.items() if name in ids}

    def add(self, index, error, max_share):
        """Lists video `index`; False if it is listed already. Raises TooManyBadVideos above `max_share` of all."""
        name = self.source[index]["id"]
        if name not in self.errors:
            new = not os.path.exists(self.path)
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["id", "error"]] * new + [[name, error]])
        known, self.errors[name] = name in self.errors, error
        if len(self.errors) > max_share * len(self.source):
            raise TooManyBadVideos(
                f"{len(self.errors)} of {len(self.source)} videos cannot be read, more than config.data.max_bad="
                f"{max_share} allows; they are listed in {self.path} (the last: {error})."
            )
        return not known
