// GraphiQL itself, with examples that name a project of the caller's.

import { createGraphiQLFetcher } from "@graphiql/toolkit";
import { GraphiQL } from "graphiql";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

import { keepToken } from "./session.js";

import createImage from "./examples/create-image.graphql";
import createSnapshot from "./examples/create-snapshot.graphql";
import deleteServer from "./examples/delete-server.graphql";
import launchServer from "./examples/launch-server.graphql";
import listImages from "./examples/list-images.graphql";
import lookAtProject from "./examples/look-at-project.graphql";
import lookAtServers from "./examples/look-at-servers.graphql";
import promoteSnapshot from "./examples/promote-snapshot.graphql";
import readConsole from "./examples/read-console.graphql";
import shareImage from "./examples/share-image.graphql";
import stopServer from "./examples/stop-server.graphql";
import tabs from "./examples/tabs.json";
import watchImages from "./examples/watch-images.graphql";
import whoAmI from "./examples/who-am-i.graphql";

const documents = {
  "create-image": createImage,
  "create-snapshot": createSnapshot,
  "delete-server": deleteServer,
  "launch-server": launchServer,
  "list-images": listImages,
  "look-at-project": lookAtProject,
  "look-at-servers": lookAtServers,
  "promote-snapshot": promoteSnapshot,
  "read-console": readConsole,
  "share-image": shareImage,
  "stop-server": stopServer,
  "watch-images": watchImages,
  "who-am-i": whoAmI,
};

globalThis.MonacoEnvironment = {
  getWorker(_id, label) {
    const worker = ["json", "graphql"].includes(label) ? label : "editor";
    return new Worker(new URL(`./${worker}.worker.js`, import.meta.url), { name: label });
  },
};

// Tabs are kept by the browser, and they name a project. A gateway that was set up anew has other projects.
function forgetTabsOfAnotherGateway(projectId) {
  const remembered = "image-gateway:project";
  if (localStorage.getItem(remembered) === projectId) return;
  for (const kept of ["tabState", "query", "variables"]) localStorage.removeItem(`graphiql:${kept}`);
  localStorage.setItem(remembered, projectId);
}

// The examples, in the order in which a newcomer needs them. PROJECT stands for the project of the caller.
function exampleTabs(projectId) {
  const named = (_key, value) => (value === "PROJECT" ? (projectId ?? "the id of a project") : value);
  return tabs.map(({ document, variables }) => ({
    query: documents[document],
    variables: variables && JSON.stringify(variables, named, 2),
  }));
}

// The token goes with every request without being shown. What the headers editor holds goes before it: its lines are
// headers of an HTTP request, and the payload of connection_init when a subscription opens its WebSocket.
function fetcherOf(page, token) {
  const socket = new URL(page.pathname, page.href);
  socket.protocol = page.protocol === "https:" ? "wss:" : "ws:";
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  return createGraphiQLFetcher({
    url: page.pathname,
    subscriptionUrl: socket.href,
    headers,
    wsConnectionParams: headers,
  });
}

function signOut() {
  keepToken(null);
  location.reload();
}

// Shows GraphiQL. Without a token it can read the schema and nothing else.
export function explore({ token, projectId }) {
  const asked = new URLSearchParams(location.search);
  if (projectId) forgetTabsOfAnotherGateway(projectId);
  const label = token === null ? "Sign in" : "Sign out";
  createRoot(document.getElementById("graphiql")).render(
    createElement(
      GraphiQL,
      {
        fetcher: fetcherOf(location, token),
        defaultTabs: asked.has("query") ? undefined : exampleTabs(projectId),
        initialQuery: asked.get("query") ?? undefined,
        initialVariables: asked.get("variables") ?? undefined,
        defaultEditorToolsVisibility: "variables",
        inputValueDeprecation: true,
        schemaDescription: true,
        // What is typed there may be a token, and is not for the browser's storage.
        shouldPersistHeaders: false,
      },
      createElement(
        GraphiQL.Logo,
        null,
        "Images ",
        createElement("button", { type: "button", className: "sign-out", onClick: signOut }, label),
      ),
    ),
  );
}
