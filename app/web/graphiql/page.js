// The page at /graphql: GraphiQL, filled in with what the server put into the element "configuration".

import "graphiql/style.css";
import "./page.css";

import { createGraphiQLFetcher } from "@graphiql/toolkit";
import { GraphiQL } from "graphiql";
import { createElement } from "react";
import { createRoot } from "react-dom/client";

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

function exampleTabs(projectId, headers) {
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
    { query: whoAmI, headers },
    { query: listImages, variables: ofProject, headers },
    { query: createImage, variables: JSON.stringify(newImage, null, 2), headers },
    { query: watchImages, variables: ofProject, headers },
    { query: shareImage, variables: JSON.stringify(newShare, null, 2), headers },
    { query: lookAtProject, variables: ofProject, headers },
  ];
}

// The headers editor speaks for both ways: its lines are the headers of an HTTP request, and the payload of
// connection_init when a subscription opens its WebSocket.
function fetcherOf(page) {
  const socket = new URL(page.pathname, page.href);
  socket.protocol = page.protocol === "https:" ? "wss:" : "ws:";
  return createGraphiQLFetcher({ url: page.pathname, subscriptionUrl: socket.href });
}

const { token, projectId } = JSON.parse(document.getElementById("configuration").textContent);
const asked = new URLSearchParams(location.search);
const headers = token ? JSON.stringify({ Authorization: `Bearer ${token}` }, null, 2) : undefined;
if (projectId) forgetTabsOfAnotherGateway(projectId);

createRoot(document.getElementById("graphiql")).render(
  createElement(
    GraphiQL,
    {
      fetcher: fetcherOf(location),
      defaultTabs: asked.has("query") ? undefined : exampleTabs(projectId, headers),
      initialQuery: asked.get("query") ?? undefined,
      initialVariables: asked.get("variables") ?? undefined,
      defaultHeaders: headers,
      defaultEditorToolsVisibility: token ? "variables" : "headers",
      inputValueDeprecation: true,
      schemaDescription: true,
      // A token is not for the browser's storage: it is filled in anew when the page is opened.
      shouldPersistHeaders: false,
    },
    createElement(GraphiQL.Logo, null, "Images"),
  ),
);
