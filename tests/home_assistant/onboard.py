"""Run by Home Assistant's own interpreter, which has aiohttp: make the first user, write a long-lived token.

Usage: onboard.py URL
"""

from __future__ import annotations

import asyncio
import secrets
import sys

import aiohttp

LIFESPAN_DAYS = 1


async def onboard(url: str) -> str:
    """Go the way the first visit of a browser goes, and return the token."""
    client = f"{url}/"
    async with aiohttp.ClientSession(raise_for_status=True) as http:
        user = {
            "client_id": client,
            "name": "bench",
            "username": "bench",
            "password": secrets.token_urlsafe(),
            "language": "en",
        }
        async with http.post(f"{url}/api/onboarding/users", json=user) as response:
            code = (await response.json())["auth_code"]
        grant = {"client_id": client, "grant_type": "authorization_code", "code": code}
        async with http.post(f"{url}/auth/token", data=grant) as response:
            access_token = (await response.json())["access_token"]
        async with http.ws_connect(f"{url}/api/websocket") as socket:
            await socket.receive_json()
            await socket.send_json({"type": "auth", "access_token": access_token})
            await socket.receive_json()
            ask = {"id": 1, "type": "auth/long_lived_access_token", "client_name": "bench", "lifespan": LIFESPAN_DAYS}
            await socket.send_json(ask)
            token: str = (await socket.receive_json())["result"]
            return token


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(onboard(sys.argv[1])) + "\n")
