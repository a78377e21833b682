SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null, // the default one sends the document's address to a third party
  requestInterceptor(request) {
    // What an SDK does by itself: without it, the service refuses.
    if (!request.loadSpec) request.headers["OpenAI-Beta"] = "assistants=v2";
    return request;
  },
});
