"""Tokens: those of our own secret and of an OIDC issuer, and every way in which one does not hold."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from app.adapters.tokens import IssuerTokens, SecretTokens, Tokens, tokens_of
from app.errors import NotAuthenticated
from app.settings import Settings
from app.viewer import Viewer

SECRET = b"s" * 32
AUDIENCE = "image-gateway"
MALFORMED = "the token is not valid: it is malformed, or another issuer signed it"


def claims(**given: Any) -> dict[str, Any]:
    """What a token says that holds; a claim that is None is left out."""
    usual = {"sub": "ada", "aud": AUDIENCE, "exp": datetime.now(UTC) + timedelta(hours=1)}
    return {name: value for name, value in (usual | given).items() if value is not None}


def refusal(tokens: Tokens, token: str) -> str:
    """Why a token is refused."""
    with pytest.raises(NotAuthenticated) as refused:
        asyncio.run(tokens.viewer(token))
    return str(refused.value)


def by_hand(header: dict[str, Any], body: dict[str, Any], key: bytes) -> str:
    """A token signed with HMAC, whatever its header says: PyJWT would not make it."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, body)]
    signature = base64.urlsafe_b64encode(hmac.digest(key, b".".join(parts), hashlib.sha256)).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


# ---------------------------------------------------------------- of our own secret


def test_a_token_says_who_it_is_for_and_until_when() -> None:
    tokens = SecretTokens(SECRET)
    viewer = asyncio.run(tokens.viewer(tokens.issue("ada", name="Ada", valid=timedelta(hours=1))))
    assert (viewer.subject, viewer.name, viewer.anonymous) == ("ada", "Ada", False)
    assert viewer.expires_at is not None
    assert timedelta(minutes=59) < viewer.expires_at - datetime.now(UTC) <= timedelta(hours=1)


def test_a_token_of_our_own_makes_an_operator_when_it_was_issued_so() -> None:
    tokens = SecretTokens(SECRET)
    for operator in (False, True):
        assert asyncio.run(tokens.viewer(tokens.issue("ada", operator=operator))).operator is operator


def test_a_name_that_is_no_text_is_left_out() -> None:
    token = jwt.encode(claims(name=["Ada"]), SECRET, "HS256")
    assert asyncio.run(SecretTokens(SECRET).viewer(token)).name is None


def test_clocks_may_differ_by_seconds() -> None:
    tokens = SecretTokens(SECRET)
    assert asyncio.run(tokens.viewer(tokens.issue("ada", valid=timedelta(seconds=-3)))).subject == "ada"


def test_a_token_that_has_expired_is_told_so() -> None:
    tokens = SecretTokens(SECRET)
    assert refusal(tokens, tokens.issue("ada", valid=timedelta(minutes=-1))) == "the token has expired; get a new one"


FORGED = {
    "another secret": jwt.encode(claims(), b"t" * 32, "HS256"),
    "no signature": jwt.encode(claims(), "", "none"),
    "no signature, spelled oddly": by_hand(
        {"alg": "nOnE", "typ": "JWT"}, {"sub": "ada", "aud": AUDIENCE, "exp": 2e9}, b""
    ),
    "another length of hash": jwt.encode(claims(), SECRET * 2, "HS512"),
    "RS256 in the header": by_hand(
        {"alg": "RS256", "typ": "JWT"}, {"sub": "ada", "aud": AUDIENCE, "exp": 2_000_000_000}, SECRET
    ),
    "no subject": jwt.encode(claims(sub=None), SECRET, "HS256"),
    "an empty subject": jwt.encode(claims(sub=""), SECRET, "HS256"),
    "a subject that is a number": by_hand({"alg": "HS256"}, {"sub": 7, "aud": AUDIENCE, "exp": 2_000_000_000}, SECRET),
    "a subject with a NUL": jwt.encode(claims(sub="ada\0"), SECRET, "HS256"),
    "half of a character in the subject": by_hand(
        {"alg": "HS256"}, {"sub": "\ud800", "aud": AUDIENCE, "exp": 2_000_000_000}, SECRET
    ),
    "no end": jwt.encode(claims(exp=None), SECRET, "HS256"),
    "an end beyond all calendars": by_hand({"alg": "HS256"}, {"sub": "ada", "aud": AUDIENCE, "exp": 10**30}, SECRET),
    "an end that is no number": by_hand({"alg": "HS256"}, {"sub": "ada", "aud": AUDIENCE, "exp": "soon"}, SECRET),
    "an end without end": by_hand({"alg": "HS256"}, {"sub": "ada", "aud": AUDIENCE, "exp": float("inf")}, SECRET),
    "another audience": jwt.encode(claims(aud="elsewhere"), SECRET, "HS256"),
    "no audience": jwt.encode(claims(aud=None), SECRET, "HS256"),
    "not yet": jwt.encode(claims(nbf=datetime.now(UTC) + timedelta(hours=1)), SECRET, "HS256"),
    "claims that are a list": by_hand({"alg": "HS256"}, ["sub"], SECRET),  # type: ignore[arg-type]
    "nothing": "",
    "a word": "token",
    "dots": "..",
    "half of a character": "\ud800.\ud800.\ud800",
    "no ASCII": "é.é.é",
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_what_is_no_token_of_ours_is_refused(token: str) -> None:
    assert refusal(SecretTokens(SECRET), token) == MALFORMED


def test_an_end_given_as_digits_is_an_end() -> None:
    token = by_hand({"alg": "HS256"}, {"sub": "ada", "aud": AUDIENCE, "exp": "2000000000"}, SECRET)
    viewer = asyncio.run(SecretTokens(SECRET).viewer(token))
    assert viewer.expires_at == datetime.fromtimestamp(2_000_000_000, UTC)


# ---------------------------------------------------------------- of an OIDC issuer


class Issuer:
    """An issuer on this machine: it publishes keys, and signs what it is asked to."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.asked: list[str] = []
        self.address = ""

    def new_key(self, kid: str) -> None:
        self.keys[kid] = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def token(self, kid: str, **given: Any) -> str:
        body = claims(iss=self.address, **given)
        return jwt.encode(body, self.keys[kid], "RS256", headers={"kid": kid})

    def document(self, path: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.address, "jwks_uri": f"{self.address}/keys"}
        if path == "/keys":
            jwks = [jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) for key in self.keys.values()]
            return {"keys": [jwk | {"kid": kid, "use": "sig"} for kid, jwk in zip(self.keys, jwks, strict=True)]}
        return None


@contextmanager
def listening(issuer: Issuer) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            found = issuer.document(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    made.new_key("one")
    with listening(made):
        yield made


def trusting(issuer: Issuer, audience: str | None = AUDIENCE, algorithm: str = "RS256") -> IssuerTokens:
    return IssuerTokens(issuer.address, audience, algorithm)


def test_the_keys_of_an_issuer_are_discovered_once(issuer: Issuer) -> None:
    tokens = trusting(issuer)
    for _ in range(3):
        viewer = asyncio.run(tokens.viewer(issuer.token("one", name="Ada")))
        assert (viewer.subject, viewer.name) == ("ada", "Ada")
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def test_where_the_keys_are_can_be_configured(issuer: Issuer) -> None:
    tokens = IssuerTokens(issuer.address, AUDIENCE, "RS256", f"{issuer.address}/keys")
    assert asyncio.run(tokens.viewer(issuer.token("one"))).subject == "ada"
    assert issuer.asked == ["/keys"]


def test_a_key_that_the_issuer_published_since_is_fetched(issuer: Issuer) -> None:
    tokens = trusting(issuer)
    asyncio.run(tokens.viewer(issuer.token("one")))
    issuer.new_key("two")
    assert tokens._keys is not None
    tokens._keys.cooldown_duration = 0
    assert asyncio.run(tokens.viewer(issuer.token("two"))).subject == "ada"


def test_tokens_of_unknown_keys_are_refused_without_asking_the_issuer_each_time(issuer: Issuer) -> None:
    tokens = trusting(issuer)
    stranger = Issuer()
    stranger.address = issuer.address
    for kid in ("unknown", "other", "third"):
        stranger.new_key(kid)
        assert refusal(tokens, stranger.token(kid)) == MALFORMED
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def test_a_token_signed_by_another_key_of_the_same_name_is_refused(issuer: Issuer) -> None:
    stranger = Issuer()
    stranger.address = issuer.address
    stranger.new_key("one")
    assert refusal(trusting(issuer), stranger.token("one")) == MALFORMED


def test_the_public_key_is_no_secret_to_sign_with(issuer: Issuer) -> None:
    public = issuer.keys["one"].public_key()
    format = serialization.PublicFormat.SubjectPublicKeyInfo
    body = {"sub": "ada", "aud": AUDIENCE, "iss": issuer.address, "exp": 2_000_000_000}
    for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
        key = public.public_bytes(encoding, format)
        for algorithm in ("HS256", "RS256"):
            token = by_hand({"alg": algorithm, "kid": "one", "typ": "JWT"}, body, key)
            assert refusal(trusting(issuer), token) == MALFORMED


@pytest.mark.parametrize(
    "given",
    [{"iss": "http://elsewhere"}, {"iss": None}, {"aud": "elsewhere"}, {"aud": None}, {"sub": None}, {"exp": None}],
    ids=str,
)
def test_a_token_that_says_something_else_is_refused(issuer: Issuer, given: dict[str, Any]) -> None:
    body = {"iss": issuer.address} | given
    token = jwt.encode(claims(**body), issuer.keys["one"], "RS256", headers={"kid": "one"})
    assert refusal(trusting(issuer), token) == MALFORMED


@pytest.mark.parametrize(
    ("configured", "given", "operator"),
    [
        (None, {"operator": True}, False),
        ("operator", {"operator": True}, True),
        ("operator", {"operator": "true"}, False),
        ("operator", {"operator": 1}, False),
        ("operator", {}, False),
        ("role=chief", {"role": "chief"}, True),
        ("role=chief", {"role": "chiefs"}, False),
        ("roles=chief", {"roles": ["reader", "chief"]}, True),
        ("roles=chief", {"roles": ["chiefs"]}, False),
        ("roles=chief", {"roles": {"chief": True}}, False),
        ("realm.roles=chief", {"realm": {"roles": ["chief"]}}, True),
        ("realm.roles=chief", {"realm": ["roles", "chief"]}, False),
        ("https://a.b/roles=c=d", {"https://a.b/roles": ["c=d"]}, True),
    ],
)
def test_a_claim_that_is_configured_makes_operators(
    issuer: Issuer, configured: str | None, given: dict[str, Any], operator: bool
) -> None:
    settings = Settings(jwt_issuer=issuer.address, jwt_audience=AUDIENCE, operator_claim=configured)
    viewer = asyncio.run(tokens_of(settings).viewer(issuer.token("one", **given)))
    assert viewer.operator is operator


def test_an_audience_counts_only_when_one_is_configured(issuer: Issuer) -> None:
    assert asyncio.run(trusting(issuer, audience=None).viewer(issuer.token("one", aud="elsewhere"))).subject == "ada"
    assert asyncio.run(trusting(issuer, audience=None).viewer(issuer.token("one", aud=None))).subject == "ada"


def test_an_issuer_that_expired_a_token_is_believed(issuer: Issuer) -> None:
    token = issuer.token("one", exp=datetime.now(UTC) - timedelta(minutes=1))
    assert refusal(trusting(issuer), token) == "the token has expired; get a new one"


def test_the_algorithm_is_the_configured_one(issuer: Issuer) -> None:
    assert refusal(trusting(issuer, algorithm="PS256"), issuer.token("one")) == MALFORMED
    key = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode(claims(iss=issuer.address), key, "ES256", headers={"kid": "one"})
    assert refusal(trusting(issuer), token) == MALFORMED


def test_a_token_of_the_gateways_own_secret_is_nothing_to_an_issuer(issuer: Issuer) -> None:
    assert refusal(trusting(issuer), SecretTokens(SECRET).issue("ada")) == MALFORMED


SILENT = "the token can't be verified now: its issuer does not answer"


def test_an_issuer_that_does_not_answer_is_named_as_the_reason(issuer: Issuer) -> None:
    token = issuer.token("one")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert refusal(IssuerTokens(nobody, AUDIENCE, "RS256"), token) == SILENT
    assert refusal(IssuerTokens(nobody, AUDIENCE, "RS256", f"{nobody}/keys"), token) == SILENT


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/keys"])
@pytest.mark.parametrize("answer", [None, [], {"keys": []}, "no JSON object"], ids=str)
def test_an_issuer_that_answers_nonsense_lets_nobody_in(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, path: str, answer: Any
) -> None:
    token, usual = issuer.token("one"), issuer.document
    monkeypatch.setattr(issuer, "document", lambda asked: answer if asked == path else usual(asked))
    assert refusal(trusting(issuer), token) in (SILENT, MALFORMED)
    monkeypatch.undo()
    assert asyncio.run(trusting(issuer).viewer(token)).subject == "ada"


def test_an_issuer_that_comes_back_is_asked_again(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, token = trusting(issuer), issuer.token("one")
    monkeypatch.setattr(issuer, "document", lambda asked: None)
    assert refusal(tokens, token) == SILENT
    monkeypatch.undo()
    assert asyncio.run(tokens.viewer(token)).subject == "ada"


def test_the_configuration_says_whose_tokens_are_taken(issuer: Issuer) -> None:
    own = tokens_of(Settings(secret="s" * 32))
    assert isinstance(own, SecretTokens)
    foreign = tokens_of(Settings(jwt_issuer=issuer.address, jwt_audience=AUDIENCE))
    token = issuer.token("one")
    assert asyncio.run(foreign.viewer(token)) == Viewer("ada", None, jwt_end(token))


def jwt_end(token: str) -> datetime:
    return datetime.fromtimestamp(jwt.decode(token, options={"verify_signature": False})["exp"], UTC)
