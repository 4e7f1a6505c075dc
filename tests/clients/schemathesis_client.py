"""schemathesis_client.py ADDRESS KEY: requests made from /openapi.json, valid ones and others. None of them may be the server's
fault, and none may go unanswered."""
import os
import subprocess
import sys
import tempfile

address, key = sys.argv[1:3]
program = os.path.join(os.path.dirname(sys.executable), "schemathesis")
bearer = ["--header", f"Authorization: Bearer {key}"]
checks = ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all"]
# with more workers Python 3.11 may lose count of the depth of what it compiles
limits = ["--max-examples", "20", "--seed", "1", "--max-time", "60", "--request-timeout", "30", "--workers", "1", "--no-shrink"]
environment = {**os.environ, "NO_COLOR": "1", "HYPOTHESIS_STORAGE_DIRECTORY": tempfile.mkdtemp()}
ran = subprocess.run(
    # a stream that ends when the listener leaves
    [program, "run", f"{address}/openapi.json", "--exclude-path", "/machine", *bearer, *checks, *limits], cwd=tempfile.mkdtemp(), env=environment,
    capture_output=True, text=True)
print(ran.stdout[-6000:], ran.stderr[-2000:])
assert ran.returncode == 0, ran.returncode
