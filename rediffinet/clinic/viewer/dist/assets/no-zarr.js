const r={fromConfig(){throw new Error("Zarr images are not read here.")}};export{r as default};
