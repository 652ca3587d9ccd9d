// GraphiQL itself, with examples that name a project of the caller's.

import { createGraphiQLFetcher } from "@graphiql/toolkit";
import { GraphiQL } from "graphiql";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

import { keepToken } from "./session.js";

import createImage from "./examples/create-image.graphql";
import listImages from "./examples/list-images.graphql";
import lookAtProject from "./examples/look-at-project.graphql";
import shareImage from "./examples/share-image.graphql";
import watchImages from "./examples/watch-images.graphql";
import whoAmI from "./examples/who-am-i.graphql";

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

function exampleTabs(projectId) {
  const ofProject = JSON.stringify({ projectId: projectId ?? "the id of a project" }, null, 2);
  const newImage = {
    input: {
      projectId: projectId ?? "the id of a project",
      name: "my first image",
      source: { upload: { fileName: "disk.vmdk", size: 1048576 } },
    },
  };
  const newShare = {
    input: { imageId: "the id of an image", projectId: "the id of another project", grant: "LAUNCH", offer: false },
  };
  return [
    { query: whoAmI },
    { query: listImages, variables: ofProject },
    { query: createImage, variables: JSON.stringify(newImage, null, 2) },
    { query: watchImages, variables: ofProject },
    { query: shareImage, variables: JSON.stringify(newShare, null, 2) },
    { query: lookAtProject, variables: ofProject },
  ];
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
