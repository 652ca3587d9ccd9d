// The form that asks for a token.

import { keepToken, projectOf } from "./session.js";

// Shows the form, and `trouble` if there is any. Resolves with a session once a token works, or none is wanted.
export function askForToken(embedded, trouble) {
  const form = document.getElementById("sign-in").content.cloneNode(true);
  for (const section of form.querySelectorAll("[data-when]")) {
    section.hidden = section.dataset.when !== (embedded ? "embedded" : "issuer");
  }
  const root = document.getElementById("graphiql");
  root.replaceChildren(form);
  const [input, submit] = [root.querySelector("input"), root.querySelector(".primary")];
  input.focus();
  if (trouble) show(root, trouble.message);
  return new Promise((resolve) => {
    root.querySelector("form").addEventListener("submit", async (event) => {
      event.preventDefault();
      submit.disabled = true;
      try {
        resolve(await signInWith(withoutScheme(input.value)));
      } catch (error) {
        show(root, error.message);
        input.select();
      } finally {
        submit.disabled = false;
      }
    });
    root.querySelector(".plain").addEventListener("click", () => resolve({ token: null }));
  });
}

async function signInWith(token) {
  // A header can't hold anything else, and fetch would say so in its own words.
  if (!/^[\x21-\x7e]+$/.test(token)) throw new Error("This is not a token: it is empty, or has spaces or umlauts in it.");
  const projectId = await projectOf(token);
  keepToken(token);
  return { token, projectId };
}

// People paste what they find: a token, with the scheme, or in quotes.
const withoutScheme = (text) => text.trim().replace(/^"|"$/g, "").replace(/^Bearer\s+/i, "");

function show(root, message) {
  const alert = root.querySelector(".trouble");
  alert.textContent = message;
  alert.hidden = false;
}
