"""One bash session of a real execd."""
from execd_follow import Following, outcome, text_of


class Session:
    def __init__(self, execd, **body):
        self.execd = execd
        r = execd.request("POST", "/session", body or None, headers={"Content-Type": "application/json"})
        assert r.status == 200, r
        self.id = r.json()["session_id"]

    def events(self, command, **body):
        run = self.follow(command, **body)
        assert run.status == 200, run.response.read()
        events = list(run)
        run.close()
        return events

    def follow(self, command, **body):
        return Following(*self.execd.open("POST", f"/session/{self.id}/run", {"command": command, **body}))

    def run(self, command, **body):
        """(stdout, exit code)"""
        events = self.events(command, **body)
        return text_of(events), outcome(events)[0]

    def delete(self):
        assert self.execd.request("DELETE", f"/session/{self.id}").status == 200
