"""One file a question; each has a `STUDY` (`skiplab.study.question.Study`)."""
