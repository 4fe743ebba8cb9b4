"""The process that a user starts: claims addresses, passes clients to their models' workers, keeps workers alive."""
