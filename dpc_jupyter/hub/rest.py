"""The hub as an ASGI application: who is called with what. It never sees a prompt."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator

from dpc_jupyter.errors import HandshakeError
from dpc_jupyter.hub.limits import (
    ADVERTS_PER_NODE,
    BODY_LIMIT_BYTES,
    LOGIN_CALLS_PER_ADDRESS,
    LOGINS_PER_NODE,
    SEARCHES_PER_NODE,
    Rate,
    address_key,
)
from dpc_jupyter.hub.metrics import Metrics
from dpc_jupyter.hub.schemas import (
    Advert,
    Challenge,
    ChallengeRequest,
    Found,
    Health,
    Login,
    LoginRequest,
    Problem,
)
from dpc_jupyter.hub.signalling.switchboard import Switchboard
from dpc_jupyter.hub.signalling.websocket import Signalling
from dpc_jupyter.hub.storage.storage import Storage, StorageError
from dpc_jupyter.hub.tokens import CHALLENGE_S, TOKEN_S, Tokens, nonce_digest
from dpc_jupyter.hub.wire import WORDS_LIMIT, signed_bytes
from dpc_jupyter.identity import peer_key_from_pem
from dpc_jupyter.sanitize import label

_ABOUT = """Presence, discovery and signalling for nodes that know each other. Prompts never come here.

Log in by proving the node's key: `POST /login/challenge`, sign, `POST /login`. Then open the websocket `/ws/signal`
with the token in the `Authorization` header (or as `?token=`), optionally `?session=` (a name for one of several
notebooks) and `?offers=false` (it takes no offers). Send `{"type": "signal", "target_node_id", "payload"}`, hear
`{"type": "signal", "sender_node_id", "payload"}` or `{"type": "error", "target_node_id", "error"}`; `sender_session`
and `target_session` name a session. `{"type": "token", "token"}` keeps the websocket beyond its first token.
"""
_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The proof or the token is not good."},
    413: {"model": Problem, "description": "The body is too long."},
    429: {"model": Problem, "description": "Too much; Retry-After says when to come back, in seconds."},
    503: {"model": Problem, "description": "The hub's database does not answer."},
}
_bearer = HTTPBearer(auto_error=False, description="The token of POST /login.")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process of the hub is started with.

    Attributes
    ----------
    origin : str
        What nodes dial, as `wire.origin_of` spells it; they sign it.
    database : str
        A file or a URL.
    redis_url : str
        Empty for a hub of one process.
    """

    origin: str
    database: str
    redis_url: str = ""


class Hub:
    """What the calls share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.storage = Storage(settings.database)
        self.switchboard = Switchboard(self.storage, self.metrics, settings.redis_url)
        self.tokens = Tokens(b"", settings.origin, time.time)  # until `running` knows the secret
        self._rates = {
            what: Rate(limit, time.monotonic)
            for what, limit in {
                "login": LOGIN_CALLS_PER_ADDRESS,
                "node login": LOGINS_PER_NODE,
                "search": SEARCHES_PER_NODE,
                "advert": ADVERTS_PER_NODE,
            }.items()
        }

    @contextlib.asynccontextmanager
    async def running(self, _app: FastAPI) -> AsyncIterator[None]:
        """The application's life."""
        self.tokens = Tokens(await self.storage.open(), self.settings.origin, time.time)
        try:
            async with self.switchboard.running():
                yield
        finally:
            await self.storage.close()

    def limit(self, what: str, key: str) -> None:
        """Count this call; refuse it with 429 where there were too many."""
        if wait_s := self._rates[what].take(key):
            self.metrics.refuse(what)
            after = str(int(wait_s) + 1)
            raise HTTPException(429, f"Too many: try again in {after} s.", {"Retry-After": after})

    async def log_in(self, proof: LoginRequest) -> str:
        """A token for whoever proved a key; raises HandshakeError."""
        key = peer_key_from_pem(proof.cert_pem)
        if key.node_id != proof.node_id:
            raise HandshakeError("The certificate is not this node's.")
        expires = self.tokens.check_challenge(proof.nonce, proof.node_id)
        try:
            signature = base64.b64decode(proof.signature, validate=True)
        except ValueError as error:
            raise HandshakeError("The signature is not base64.") from error
        if not key.verify(signature, signed_bytes(self.tokens.origin, proof.node_id, proof.nonce)):
            raise HandshakeError(f"The signature is not this node's, or not for this hub: it is {self.tokens.origin}.")
        # Only now: a node that has proved nothing must not use up another one's logins.
        self.limit("node login", proof.node_id)
        if not await self.storage.use_nonce(nonce_digest(proof.nonce), expires):
            raise HandshakeError("The nonce was used before: ask for a new challenge.")
        return self.tokens.issue(proof.node_id)


def _caller(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    if credentials is None:
        raise HandshakeError("This call needs a token: log in.")
    hub: Hub = request.app.state.hub
    return hub.tokens.check(credentials.credentials).node_id


Caller = Annotated[str, Depends(_caller)]
Term = Annotated[str, Query(max_length=128), AfterValidator(label)]


def create_app(settings: Settings) -> FastAPI:
    """The whole hub."""
    hub = Hub(settings)
    app = FastAPI(
        title="dpc-jupyter hub",
        version=version("dpc-jupyter"),
        description=_ABOUT,
        lifespan=hub.running,
        max_body_size=BODY_LIMIT_BYTES,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # who calls whom is exported nowhere
    )
    app.state.hub = hub
    app.router.routes.append(Signalling(hub.switchboard, lambda: hub.tokens, hub.metrics).route)
    _add_handlers(app, hub)
    _add_login(app, hub)
    _add_discovery(app, hub)
    _add_watching(app, hub)
    return app


def _add_handlers(app: FastAPI, hub: Hub) -> None:
    @app.exception_handler(HandshakeError)
    def not_proven(_request: Request, error: HandshakeError) -> JSONResponse:
        hub.metrics.refuse("proof")
        return JSONResponse({"detail": str(error)}, 401, {"WWW-Authenticate": "Bearer"})

    @app.exception_handler(StorageError)
    def no_storage(_request: Request, error: StorageError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)


def _add_login(app: FastAPI, hub: Hub) -> None:
    def from_address(request: Request) -> None:
        hub.limit("login", address_key(request.client.host if request.client else None))

    refusals: dict[int | str, dict[str, Any]] = {status: _REFUSALS[status] for status in (413, 429)}
    login_refusals: dict[int | str, dict[str, Any]] = {status: _REFUSALS[status] for status in (401, 413, 429, 503)}

    @app.post("/login/challenge", responses=refusals, dependencies=[Depends(from_address)], tags=["login"])
    async def challenge(who: ChallengeRequest) -> Challenge:
        """Ask for a nonce to sign."""
        return Challenge(nonce=hub.tokens.challenge(who.node_id), origin=hub.tokens.origin, expires_in_s=CHALLENGE_S)

    @app.post("/login", responses=login_refusals, dependencies=[Depends(from_address)], tags=["login"])
    async def login(proof: LoginRequest) -> Login:
        """Show the signature; each nonce serves once."""
        token = await hub.log_in(proof)
        hub.metrics.logins.inc()
        return Login(token=token, node_id=proof.node_id, expires_in_s=TOKEN_S)


def _add_discovery(app: FastAPI, hub: Hub) -> None:
    @app.put("/me", status_code=204, responses=_REFUSALS, tags=["discovery"])
    async def advertise(advert: Advert, me: Caller) -> None:
        """Let this node be found, while it is online, by those whom each offer names."""
        hub.limit("advert", me)
        if advert.words > WORDS_LIMIT:
            raise HTTPException(413, f"An advert has at most {WORDS_LIMIT} models, groups and node ids.")
        if not await hub.storage.put_advert(me, advert):
            raise HTTPException(503, "This hub has no room for another node's advert.")

    @app.delete("/me", status_code=204, responses=_REFUSALS, tags=["discovery"])
    async def withdraw(me: Caller) -> None:
        """Let this node be found no more."""
        hub.limit("advert", me)
        await hub.storage.delete_advert(me)

    @app.get("/nodes", responses=_REFUSALS, tags=["discovery"])
    async def nodes(me: Caller, model: Term = "", name: Term = "", group: Term = "") -> Found:
        """Search the nodes that are online and let you see them: by parts of model and name, by a whole group."""
        hub.limit("search", me)
        hub.metrics.searches.inc()
        return await hub.storage.search(me, model=model, name=name, group=group)


def _add_watching(app: FastAPI, hub: Hub) -> None:
    @app.get("/healthz", responses={503: {"model": Health}}, tags=["operation"])
    async def health(response: Response) -> Health:
        """Whether this process can serve."""
        try:
            await hub.storage.ping()
            database = True
        except StorageError:
            database = False
        redis = await hub.switchboard.redis_answers()
        ok = database and redis is not False
        response.status_code = 200 if ok else 503
        return Health(status="ok" if ok else "failing", database=database, redis=redis)

    @app.get("/metrics", response_class=Response, tags=["operation"])
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(hub.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
