int fc_pool_version(void);
int fc_pool_version(void) { return 0; }
