// The page at /graphql: signs in first, and loads GraphiQL only then.

import "graphiql/style.css";
import "./page.css";

import { takeCode, tokenFor } from "./code.js";
import { keepToken, keptToken, projectOf, SignInError } from "./session.js";
import { askForToken } from "./sign-in.js";

// First of all, so that neither the history nor a look at the address bar shows it. GraphiQL comes much later.
const code = takeCode();

const { embedded } = JSON.parse(document.getElementById("configuration").textContent);

// The token to use, or null when none is to be used.
async function signedInToken() {
  let trouble = null;
  if (code !== null) {
    try {
      keepToken(await tokenFor(code));
    } catch (error) {
      trouble = error;
    }
  }
  const token = keptToken();
  if (token !== null) {
    try {
      return { token, projectId: await projectOf(token) };
    } catch (error) {
      // A gateway that does not answer now says nothing about the token.
      if (error instanceof SignInError && error.final) keepToken(null);
      trouble ??= error;
    }
  }
  return askForToken(embedded, trouble);
}

// Opened in a tab that shows the page already, an address with a code changes the fragment alone.
addEventListener("hashchange", () => {
  if (location.hash.startsWith("#code=")) location.reload();
});

const session = await signedInToken();
const { explore } = await import("./explorer.js");
explore(session);
