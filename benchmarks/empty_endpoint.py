"""A FastAPI endpoint that does nothing, served on the port that is the argument."""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/")
async def nothing() -> dict[str, str]:
    """Answer."""
    return {}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
